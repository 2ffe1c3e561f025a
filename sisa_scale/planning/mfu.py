"""Model FLOPs utilisation (MFU): useful operations over what the device could do."""

# Dense bf16 tensor-core peak in FLOP/s by substring of the device name, from the vendors' data sheets.
PEAK_FLOPS = {
    "H200": 989.4e12,
    "H100 PCIe": 756.0e12,
    "H100 NVL": 835.0e12,
    "H100": 989.4e12,
    "A100": 312.0e12,
}


def peak_flops(device_name: str) -> float | None:
    """Return the dense bf16 peak of a device in FLOP/s, or None when it is not known."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device_name), None)


def utilisation(
    tokens_per_second: float, train_flops_per_token: float, peak: float | None, num_devices: int
) -> float | None:
    """Return the share of the devices' peak that the model's own operations use, or None when the peak is not known."""
    return None if peak is None else tokens_per_second * train_flops_per_token / (peak * num_devices)

import pytest

from sisa_scale.planning.mfu import peak_flops, utilisation


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla T4", None),
        ("cpu", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_utilisation_is_a_share_of_all_devices() -> None:
    assert utilisation(1e6, 1e9, 1e15, 2) == pytest.approx(0.5)
    assert utilisation(1e6, 1e9, None, 2) is None

"""The mixers by name. A mixer of the package is one line here; another package registers its own."""

from sisa_scale.config.mixers.attention import AttentionSpec
from sisa_scale.config.mixers.gated_deltanet import GatedDeltaNetSpec
from sisa_scale.config.mixers.hymba import HymbaSpec
from sisa_scale.config.mixers.mamba import Mamba2Spec, Mamba3Spec
from sisa_scale.config.mixers.sisa import SisaSpec
from sisa_scale.config.mixers.spec import MixerSpec
from sisa_scale.config.places import load_extensions

_MIXERS: dict[str, MixerSpec] = {
    spec.name: spec
    for spec in (
        AttentionSpec(),
        SisaSpec(),
        Mamba2Spec(),
        Mamba3Spec(),
        GatedDeltaNetSpec(),
        HymbaSpec(),
    )
}


def register_mixer(spec: MixerSpec) -> None:
    """Add a mixer. Raises ValueError for a name or a kind that another mixer has."""
    taken = {name for other in _MIXERS.values() for name in (other.name, other.kind) if type(other) is not type(spec)}
    if {spec.name, spec.kind} & taken:
        raise ValueError(f"there is a mixer {spec.name!r} already; choose another name")
    _MIXERS[spec.name] = spec


def mixer_specs() -> tuple[MixerSpec, ...]:
    """Return all mixers, the package's own first."""
    load_extensions()
    return tuple(_MIXERS.values())


def mixer_spec(name: str) -> MixerSpec:
    """Return a mixer; raises ValueError that lists all names for an unknown one."""
    for spec in mixer_specs():
        if spec.name == name:
            return spec
    raise ValueError(f"no mixer {name!r}; mixers are {', '.join(mixer_names())}")


def mixer_names(family: str | None = None) -> tuple[str, ...]:
    """Return the names of all mixers, or of those of a family."""
    return tuple(spec.name for spec in mixer_specs() if family in (None, spec.family))

"""Recipes: YAML files and overrides in, one frozen `RunConfig` out."""

from sisa_scale.config.loading.load import LoadedConfig, load_config
from sisa_scale.config.run import RunConfig

__all__ = ["LoadedConfig", "RunConfig", "load_config"]

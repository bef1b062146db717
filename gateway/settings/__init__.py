"""The settings of a process, from its environment and `.env`: one frozen type that is passed down."""

from gateway.settings.fields import Settings
from gateway.settings.loading import SettingsError, load_settings

__all__ = ["Settings", "SettingsError", "load_settings"]

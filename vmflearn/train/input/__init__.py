"""From files to crops on the device."""

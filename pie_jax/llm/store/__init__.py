"""Every answer, kept before it is used."""

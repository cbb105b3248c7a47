"""Published feature stores."""

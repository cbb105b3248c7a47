"""Questions that were measured once and can be measured again."""

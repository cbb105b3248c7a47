"""Stage II: find what makes each kept feature fire, and describe it in words."""

"""Stage II: find what makes each kept feature fire, and put it into words."""

"""`python -m pie_jax` is `pie-jax`."""

from pie_jax.cli.app import main

if __name__ == "__main__":
    main()

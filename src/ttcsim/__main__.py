"""`python -m ttcsim` is the same program as `ttcsim`."""

from ttcsim.cli import main

if __name__ == "__main__":
    main()

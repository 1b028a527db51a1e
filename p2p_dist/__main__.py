"""`python -m p2p_dist` is the command line."""

from p2p_dist.cli.main import app

if __name__ == "__main__":
    app(prog_name="p2p-dist")

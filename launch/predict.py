"""`matl-predict` as a script."""

import sys

from matl_scale.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())

import sys

from .run import main

try:
    sys.exit(main())
except (ValueError, RuntimeError) as error:
    sys.exit(f"bench: error: {error}")
except KeyboardInterrupt:
    sys.exit(130)

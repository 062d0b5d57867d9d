"""python -m worldclip"""

from worldclip.cli import main

raise SystemExit(main())

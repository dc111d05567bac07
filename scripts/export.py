"""Copy a run's encoder or task model to a folder that timm loads: python scripts/export.py RUN FOLDER."""

import argparse
import sys

from swinmim.errors import UserError, one_line_at_interrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="run directory or encoder folder")
    parser.add_argument("destination", help="folder to write; it must not exist")
    arguments = parser.parse_args()
    from swinmim.export import export_timm

    try:
        folder = export_timm(arguments.source, arguments.destination)
    except UserError as error:
        print(f"export: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"timm.create_model('local-dir:{folder}', pretrained=True)")
    return 0


if __name__ == "__main__":
    with one_line_at_interrupt("export"):
        sys.exit(main())

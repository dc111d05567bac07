"""Leave with an encoder, a SimMIM model or a task model, in the format of another library, checked against its source.

python scripts/export.py RUN FOLDER                      timm's local-dir, the default
python scripts/export.py RUN FOLDER format=hf            Swinv2Model or Swinv2ForImageClassification of transformers
python scripts/export.py RUN FOLDER format=hf part=simmim                Swinv2ForMaskedImageModeling
python scripts/export.py RUN FOLDER format=onnx          encoder or task model, any batch; also resolution=384
python scripts/export.py RUN FOLDER format=torch_export  the same as torch.export's .pt2

part=encoder leaves the head out, part=task asks for it. Each folder has a model card, README.md.
"""

import argparse
import sys

from swinmim.errors import UserError, one_line_at_interrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="run directory, checkpoint, encoder folder or published weights")
    parser.add_argument("destination", help="folder to write; it must not exist")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="format, part, resolution")
    arguments = parser.parse_args()
    from swinmim.export.settings import read_settings

    try:
        config = read_settings(arguments.settings)
        from finetune.apply.exported import task_network
        from swinmim.export.command import export

        print("\n".join(export(arguments.source, arguments.destination, config, task_network)))
    except UserError as error:
        print(f"export: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    with one_line_at_interrupt("export"):
        sys.exit(main())

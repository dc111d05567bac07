"""Convert SwinV2 weights of Microsoft, timm or Hugging Face to an encoder folder, or an encoder folder to Hugging Face.

python scripts/convert_weights.py swinv2_base_patch4_window12_192_22k.pth encoder
python scripts/convert_weights.py timm_weights.safetensors encoder --resolution 256 --window 8
python scripts/convert_weights.py swinv2_base_patch4_window12_192_22k.pth encoder --head-rows map22kto1k.txt
python scripts/convert_weights.py encoder hf_folder --to-huggingface
"""

import argparse
import sys

from swinmim.errors import UserError, one_line_at_interrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="checkpoint file or folder")
    parser.add_argument("destination", help="folder to write")
    parser.add_argument("--resolution", type=int, help="pixels; where the source does not say it")
    parser.add_argument("--window", type=int, help="tokens; where the source does not say it")
    parser.add_argument(
        "--head-rows",
        metavar="FILE",
        help="keep these classes of the classifier, in this order: one class number of the source per line, from 0",
    )
    parser.add_argument("--to-huggingface", action="store_true")
    args = parser.parse_args()
    from swinmim.checkpoint.convert import convert
    from swinmim.export.huggingface import export_huggingface

    try:
        if args.to_huggingface:
            if args.head_rows is not None:
                parser.error("--head-rows is for conversions to an encoder folder; drop it or --to-huggingface")
            print(export_huggingface(args.source, args.destination))
        else:
            options = {"resolution": args.resolution, "window": args.window, "head_rows": args.head_rows}
            print(convert(args.source, args.destination, **options))
    except (UserError, ValueError) as error:
        print(f"convert_weights: error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 2
    return 0


if __name__ == "__main__":
    with one_line_at_interrupt("convert_weights"):
        sys.exit(main())

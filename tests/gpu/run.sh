#!/bin/sh
# The GPU tests with what is installed on a GPU machine (see README.md here). Arguments go to pytest; PYTHON names the
# interpreter. Ends with a table of measured errors; exits with 0 only if every test ran and passed.
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
case " $* " in
*" --torch-device"*) ;;
*)
  "$python" - <<'PY'
import sys
import torch
if not torch.cuda.is_available():
    sys.exit(f"torch {torch.__version__} finds no CUDA device; try --torch-device=cpu")
print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
PY
  ;;
esac
PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 exec "$python" -m pytest -c tests/gpu/run.ini --rootdir . -p no:cacheprovider \
  -m gpu "$@" tests/gpu

#!/usr/bin/env bash
# nbformat 5.11.1 with jsonschema 4.26.0 and rfc3987-syntax 1.1.0: importing nbformat takes several times as long in an
# environment that has Jupyter as in one that has nbformat alone, because a grammar of internationalised addresses is
# compiled at the import, though no notebook's schema asks for an address to be checked.
#
# A good engineer would take reading a notebook for reading JSON, and would look for the time in his own imports. But
# jsonschema imports rfc3987-syntax wherever it is installed, for a format checker that nbformat does not use;
# rfc3987-syntax builds its parser (with lark) while it is imported; and jupyter-events, which every Jupyter server needs,
# asks for jsonschema[format-nongpl], which installs it. Every start of nbconvert, nbval, jupytext or nbgrader pays.
#
# Seen: processor time of `import nbformat`, the least of six starts: 0.13 s in the environment of nbformat alone, 1.7 s
# where jupyter-events was added, 13 times as long; `import rfc3987_syntax` alone takes 1.7 s; none of the seven schemas
# of nbformat 4 has an address checked. Asked here: 3 times as long, and at least half of it by rfc3987_syntax.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet nbformat==5.11.1 jsonschema==4.26.0
least() {
  "$folder/env/bin/python" - "$1" <<'PYTHON'
import subprocess
import sys

code = f"import time; start = time.process_time(); import {sys.argv[1]}; print(time.process_time() - start)"
run = [sys.executable, "-c", code]
print(min(float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) for _ in range(6)))
PYTHON
}
alone=$(least nbformat)
"$folder/env/bin/pip" install --quiet jupyter-events==0.12.1 rfc3987-syntax==1.1.0 jsonschema==4.26.0 nbformat==5.11.1
with=$(least nbformat)
grammar=$(least rfc3987_syntax)
"$folder/env/bin/pip" list 2>/dev/null | grep -iE "^(nbformat|jsonschema|rfc3987-syntax|jupyter.events|lark) "
"$folder/env/bin/python" - "$alone" "$with" "$grammar" <<'PYTHON'
import sys

alone, with_events, grammar = map(float, sys.argv[1:])
print(f"import nbformat: {alone:.2f} s alone, {with_events:.2f} s with jupyter-events ({with_events / alone:.1f} times)")
print(f"import rfc3987_syntax: {grammar:.2f} s")
assert with_events > 3 * alone, "the import is quick now"
assert grammar > 0.5 * (with_events - alone), "it is something else that takes the time"
import nbformat  # noqa: E402
from pathlib import Path  # noqa: E402

assert "rfc3987_syntax" in sys.modules
schemas = list(Path(nbformat.__file__).parent.glob("v4/*.schema.json"))
asking = [path.name for path in schemas if '"iri' in path.read_text() or '"format": "uri' in path.read_text()]
print(f"schemas of notebooks that have addresses checked: {len(asking)} of {len(schemas)}")
assert schemas and not asking
PYTHON

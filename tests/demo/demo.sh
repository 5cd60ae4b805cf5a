#!/bin/sh
# The demo: a collection of the DICOM files that come with the packages pydicom and pydicom-data, and three questions.
# Usage: demo.sh BIN OUT. Uses only `osler` and `python` of BIN, and writes below OUT only.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: demo.sh BIN OUT" >&2
    exit 2
fi
mkdir -p "$2"
bin=$(cd "$1" && pwd)
cd "$2"
rm -rf cases.osler cases.secret hits.html xray.dcm head.dcm

found() {
    "$bin/python" -c '
import importlib.util, pathlib, sys
spec = importlib.util.find_spec(sys.argv[1])
if spec is None:
    sys.exit("error: the package " + sys.argv[2] + " with the pictures is not installed")
print(pathlib.Path(spec.origin).parent / sys.argv[3])' "$@"
}
PYDICOM=$(found pydicom pydicom data/test_files)
PYDICOM_DATA=$(found data_store pydicom-data data)
cp "$PYDICOM_DATA/RG1_J2KR.dcm" xray.dcm
cp "$PYDICOM_DATA/693_J2KR.dcm" head.dcm

# Print a command as it would be typed, then run it.
run() {
    printf '\n$ %s\n' "$1"
    shift
    "$bin/osler" "$@"
}

run 'osler index build "$PYDICOM" "$PYDICOM_DATA" --out cases.osler' \
    index build "$PYDICOM" "$PYDICOM_DATA" --out cases.osler
run 'osler query cases.osler --image xray.dcm -k 5' \
    query cases.osler --image xray.dcm -k 5
run 'osler query cases.osler --text "ultrasound of the heart" -k 5' \
    query cases.osler --text "ultrasound of the heart" -k 5
run "osler query cases.osler --image head.dcm -k 6 --where \"modality = 'CT' AND rows >= 128\" --group-by patient_id --html hits.html" \
    query cases.osler --image head.dcm -k 6 --where "modality = 'CT' AND rows >= 128" --group-by patient_id --html hits.html

test -s hits.html
printf '\nOpen %s in a browser.\n' "$2/hits.html"

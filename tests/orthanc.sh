#!/usr/bin/env bash
# Puts Orthanc and its DICOMweb plug-in into a folder, for tests: from Debian packages, without root, installing nothing.
# Where that cannot be, it says why in FOLDER/reason and fails.
set -euo pipefail
folder=$1
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
rm -rf "$folder"/{apt,debs,root,unpacked,reason}

cannot() {
  echo "$1" | tee "$folder/reason" >&2
  exit 1
}

if [ -x /usr/sbin/Orthanc ] && [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ]; then
  # It is installed.
  ln -s / "$folder/root"
  exit
fi
command -v apt-get >/dev/null && command -v dpkg >/dev/null || cannot "there are no Debian packages on this system"
mkdir -p "$folder"/{apt/lists/partial,apt/cache/archives/partial,debs,unpacked}
# Lists of its own where those of the system are not there, and a cache of its own in any case.
own=(-q -o "Dir::Cache=$folder/apt/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1)
wanted() {
  apt-get "${own[@]}" --simulate --no-install-recommends install orthanc orthanc-dicomweb 2>/dev/null |
    sed -n 's/^Inst \([^ ]*\).*/\1/p'
}
fetch() {
  names="$(wanted)" && [ -n "$names" ] && (cd "$folder/debs" && apt-get "${own[@]}" download $names >/dev/null 2>&1)
}
if ! fetch; then
  own+=(-o "Dir::State::lists=$folder/apt/lists")
  apt-get "${own[@]}" update >/dev/null 2>&1 || cannot "the package lists of Debian cannot be had"
  fetch || cannot "the packages orthanc and orthanc-dicomweb cannot be had"
fi
for package in "$folder"/debs/*.deb; do
  dpkg -x "$package" "$folder/unpacked"
done
rm -rf "$folder/apt" "$folder/debs"
test -x "$folder/unpacked/usr/sbin/Orthanc" || cannot "the package orthanc has no program"
mv "$folder/unpacked" "$folder/root"

//! Copies what the package needs of `models/` to `OUT_DIR/_models`, from where maturin puts it into the wheel.

use std::path::Path;
use std::{env, fs, io};

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else if source
            .extension()
            .is_some_and(|e| ["json", "npz", "npy", "onnx"].iter().any(|w| e == *w))
        {
            fs::create_dir_all(to)?;
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

fn main() -> io::Result<()> {
    // asked when it runs: a target folder may be shared by checkouts that come and go
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let models = Path::new(&here).join("../../models");
    println!("cargo::rerun-if-changed={}", models.display());
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("_models");
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    copy(&models, &out)
}

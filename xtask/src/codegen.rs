//! Generates the gRPC code of d-engine-net from `proto/`, without protoc.

use std::fs;
use std::path::{Path, PathBuf};

const PROTO_DIR: &str = "proto";
const OUT_DIR: &str = "d-engine-net/src/generated";
const GENERATED_FILE: &str = "d_engine.v1.rs";

/// Writes the generated code, or with `check` only compares it with what is committed.
///
/// # Errors
/// A `.proto` file is wrong, a file cannot be read or written, or (with `check`) the committed code is stale.
pub(crate) fn codegen(check: bool) -> Result<(), String> {
    let root = workspace_root()?;
    let fresh = generate(&root.join(PROTO_DIR))?;
    let path = root.join(OUT_DIR).join(GENERATED_FILE);
    if check {
        let committed = fs::read_to_string(&path).map_err(|error| format!("reading {}: {error}", path.display()))?;
        if committed != fresh {
            return Err(format!("{} does not fit proto/: run `cargo xtask codegen` and commit", path.display()));
        }
        return Ok(());
    }
    fs::write(&path, fresh).map_err(|error| format!("writing {}: {error}", path.display()))
}

fn workspace_root() -> Result<PathBuf, String> {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().map(Path::to_path_buf).ok_or_else(|| format!("{} has no parent", manifest_dir.display()))
}

fn generate(proto_dir: &Path) -> Result<String, String> {
    let files = proto_files(&proto_dir.join("d_engine/v1"))?;
    let descriptors = protox::compile(&files, [proto_dir]).map_err(|error| format!("{error:?}"))?;
    let out = std::env::temp_dir().join(format!("d-engine-codegen-{}", std::process::id()));
    fs::create_dir_all(&out).map_err(|error| format!("creating {}: {error}", out.display()))?;
    let generated = tonic_prost_build::configure()
        .bytes(".")
        .out_dir(&out)
        // Channels are made in connection.rs; a generated `connect` would collide with the method of that name.
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .and_then(|()| fs::read_to_string(out.join(GENERATED_FILE)))
        .map_err(|error| format!("generating code: {error}"));
    // The directory is this process's own; what stays behind when this fails is a temporary file.
    let _ = fs::remove_dir_all(&out);
    generated
}

/// Every `.proto` file of the directory, in the same order on every machine.
fn proto_files(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: std::io::Error| format!("reading {}: {error}", dir.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

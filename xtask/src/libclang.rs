//! What a build of RocksDB takes beside Rust: a C++ compiler, and libclang for the bindings.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::process::succeeds;

/// The command that gets both.
pub(crate) const INSTALL: &str = "apt-get install g++ libclang1";

const PACKAGES: [&str; 2] = ["g++", "libclang1"];

/// Where libclang may be; `*` stands for any one name.
const PLACES: [&str; 7] = [
    "/usr/lib/llvm-*/lib",
    "/usr/lib/*-linux-gnu",
    "/usr/lib64",
    "/usr/lib64/llvm*/lib",
    "/usr/local/lib",
    "/Library/Developer/CommandLineTools/usr/lib",
    "/opt/homebrew/opt/llvm/lib",
];

/// Whether RocksDB can be built here; what is missing is installed where that takes no question.
pub(crate) fn is_ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| is_there() || (install() && is_there()))
}

/// What the build must be told of this machine; nothing of what the caller has set already.
pub(crate) fn environment() -> Vec<(&'static str, OsString)> {
    let mut environment = Vec::new();
    let set = |name: &str| std::env::var_os(name).is_some();
    let Some(libclang) = libclang() else { return environment };
    if !set("BINDGEN_EXTRA_CLANG_ARGS")
        && !has_headers(&libclang)
        && let Some(headers) = headers_of_the_compiler()
    {
        environment.push(("BINDGEN_EXTRA_CLANG_ARGS", OsString::from(format!("-I{headers}"))));
    }
    if !set("LIBCLANG_PATH") {
        environment.push(("LIBCLANG_PATH", libclang.into_os_string()));
    }
    environment
}

fn is_there() -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    succeeds(Command::new(compiler).arg("--version")) && libclang().is_some()
}

/// The directory with the newest libclang.
fn libclang() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("LIBCLANG_PATH") {
        return Some(path.into());
    }
    let mut found: Vec<PathBuf> = PLACES.iter().flat_map(|place| directories(place)).filter(|dir| holds(dir)).collect();
    // Later versions of LLVM have the greater number; the place of one without is as good as any.
    found.sort_by_key(|dir| std::cmp::Reverse(number(dir)));
    found.into_iter().next()
}

/// The directories that match `pattern`, in which one name may hold a `*`.
fn directories(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.into()] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let (suffix, rest) = after.split_once('/').unwrap_or((after, ""));
    let names = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| name.starts_with(prefix) && name.ends_with(suffix))
        .map(|name| Path::new(parent).join(name).join(rest))
        .collect()
}

fn holds(dir: &Path) -> bool {
    let is_libclang = |name: &str| {
        let library = name.contains(".so") || name.ends_with(".dylib");
        name.starts_with("libclang") && !name.starts_with("libclang-cpp") && library
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| is_libclang(&name))
}

/// The first number in the path, as in `/usr/lib/llvm-14/lib`.
fn number(path: &Path) -> u32 {
    let text = path.to_string_lossy();
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// Whether clang's own headers are beside the library: packages of the library alone have none.
fn has_headers(libclang: &Path) -> bool {
    directories(&format!("{}/clang/*/include", libclang.display())).iter().any(|dir| dir.join("stddef.h").is_file())
}

/// The directory with the compiler's `stddef.h`, which serves clang as well.
fn headers_of_the_compiler() -> Option<String> {
    let output = Command::new("cc").arg("-print-file-name=include").stderr(Stdio::null()).output().ok()?;
    let dir = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    Path::new(&dir).join("stddef.h").is_file().then_some(dir)
}

/// Installs the packages by apt if this user may do so without being asked.
fn install() -> bool {
    let sudo: &[&str] = if is_root() {
        &[]
    } else if succeeds(Command::new("sudo").args(["-n", "true"])) {
        &["sudo", "-n"]
    } else {
        return false;
    };
    let apt = |arguments: &[&str]| {
        let line: Vec<&str> = [sudo, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"], arguments].concat();
        succeeds(Command::new(line[0]).args(&line[1..]))
    };
    if !apt(&["--version"]) {
        return false;
    }
    println!("        installing {} by apt", PACKAGES.join(" and "));
    apt(&["update"]) && apt(&[&["install", "--yes", "--no-install-recommends"], &PACKAGES[..]].concat())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_found_where_a_package_puts_it() {
        let dir = std::env::temp_dir().join(format!("d-engine-xtask-{}-libclang", std::process::id()));
        let lib = dir.join("llvm-15/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::create_dir_all(dir.join("llvm-9")).unwrap();
        let pattern = format!("{}/llvm-*/lib", dir.display());
        assert_eq!(
            directories(&pattern).into_iter().filter(|found| found.is_dir()).collect::<Vec<_>>(),
            std::slice::from_ref(&lib)
        );

        fs::write(lib.join("libclang-cpp.so.15"), "").unwrap();
        assert!(!holds(&lib), "another library");
        fs::write(lib.join("libclang-15.so.1"), "").unwrap();
        assert!(holds(&lib));

        assert!(!has_headers(&lib));
        fs::create_dir_all(lib.join("clang/15/include")).unwrap();
        fs::write(lib.join("clang/15/include/stddef.h"), "").unwrap();
        assert!(has_headers(&lib));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_newest_version_is_the_one_with_the_greatest_number() {
        assert_eq!(number(Path::new("/usr/lib/llvm-14/lib")), 14);
        assert_eq!(number(Path::new("/usr/local/lib")), 0);
        assert!(number(Path::new("/usr/lib/llvm-9/lib")) < number(Path::new("/usr/lib/llvm-14/lib")));
    }
}

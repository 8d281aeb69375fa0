//! What the peers are: versions, as the lock file of this build has them.

/// The version of a package of this build. With two of the name, the one that begins with `begins`.
pub fn locked_version(name: &str, begins: &str) -> Option<&'static str> {
    include_str!("../Cargo.lock").split("[[package]]").find_map(|package| {
        let version =
            package.trim_start().strip_prefix(&format!("name = \"{name}\"\nversion = \""))?.split('"').next()?;
        version.starts_with(begins).then_some(version)
    })
}

//! Small things that outlive the process, each in a file of its own.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// The number in the file; `None` when there is none, or the file holds something else.
pub(crate) fn read_number(path: &Path) -> io::Result<Option<u64>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// On disk when it returns; a process that ends in between leaves the number before.
pub(crate) fn write_number(path: &Path, number: u64) -> io::Result<()> {
    write(path, format!("{number}\n").as_bytes())
}

/// On disk when it returns; a process that ends in between leaves what was there before.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

//! The secret that lets a program in.

use std::{fmt, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::PathBuf};

use rand::{RngCore as _, rngs::OsRng};
use zeroize::Zeroizing;

/// A token that is good as long as the process lives; whoever can read its file may spend what the port may spend.
pub struct Token {
    file: PathBuf,
    text: Zeroizing<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Token {
    /// Makes a new one: 64 hexadecimal digits in `file`, which its owner alone can read. One that lies there is replaced.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn create(file: PathBuf) -> std::io::Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        OsRng.fill_bytes(&mut *secret);
        let text = Zeroizing::new(hex::encode(*secret));
        match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut handle = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()?;
        Ok(Self { file, text })
    }

    /// Where it is written.
    #[must_use]
    pub const fn file(&self) -> &PathBuf {
        &self.file
    }

    /// The secret itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.text
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

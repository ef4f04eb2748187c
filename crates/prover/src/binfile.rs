//! The container that r1cs and zkey files share: a magic, a version, and numbered sections.

use std::{collections::BTreeMap, fs, ops::Range, path::Path};

use crate::ArtifactError;

/// A file read whole, with its sections' places.
pub(crate) struct BinFile<'a> {
    path: &'a Path,
    data: &'a [u8],
    sections: BTreeMap<u32, Range<usize>>,
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ArtifactError> {
    fs::read(path).map_err(|source| ArtifactError::Io { path: path.to_owned(), source })
}

impl<'a> BinFile<'a> {
    pub(crate) fn parse(path: &'a Path, data: &'a [u8], magic: &[u8; 4]) -> Result<Self, ArtifactError> {
        let mut file = Self { path, data, sections: BTreeMap::new() };
        let mut cursor = Cursor { path, data, at: 0 };
        let found = cursor.take(4)?;
        if found != magic {
            return Err(file.bad(format!("it begins with {found:02x?}, not with {magic:02x?}")));
        }
        let version = cursor.u32()?;
        if version != 1 {
            return Err(file.bad(format!("version {version}, only 1 is known")));
        }
        let count = cursor.u32()?;
        for _ in 0..count {
            let id = cursor.u32()?;
            let len = usize::try_from(cursor.u64()?).map_err(|_| file.bad("a section is larger than memory"))?;
            let start = cursor.at;
            cursor.take(len)?;
            if file.sections.insert(id, start..start + len).is_some() {
                return Err(file.bad(format!("section {id} is there twice")));
            }
        }
        Ok(file)
    }

    pub(crate) fn section(&self, id: u32) -> Result<Cursor<'a>, ArtifactError> {
        let range = self.sections.get(&id).ok_or_else(|| self.bad(format!("section {id} is missing")))?;
        Ok(Cursor { path: self.path, data: &self.data[range.clone()], at: 0 })
    }

    /// A section of exactly `count` items of `size` bytes.
    pub(crate) fn items(&self, id: u32, count: usize, size: usize) -> Result<&'a [u8], ArtifactError> {
        let section = self.section(id)?;
        if Some(section.data.len()) != count.checked_mul(size) {
            return Err(self.bad(format!("section {id} has {} bytes, not {count} items of {size}", section.data.len())));
        }
        Ok(section.data)
    }

    pub(crate) fn bad(&self, reason: impl Into<String>) -> ArtifactError {
        ArtifactError::Format { path: self.path.to_owned(), reason: reason.into() }
    }
}

pub(crate) struct Cursor<'a> {
    path: &'a Path,
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], ArtifactError> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.data.len());
        let Some(end) = end else {
            return Err(ArtifactError::Format {
                path: self.path.to_owned(),
                reason: format!("it ends {n} bytes too early after byte {}", self.at),
            });
        };
        let out = &self.data[self.at..end];
        self.at = end;
        Ok(out)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ArtifactError> {
        let mut b = [0; 4];
        b.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(b))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ArtifactError> {
        let mut b = [0; 8];
        b.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(b))
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        let out = &self.data[self.at..];
        self.at = self.data.len();
        out
    }
}

/// Writes a container; sections are appended one by one.
pub(crate) struct BinWriter {
    out: Vec<u8>,
    sections: u32,
}

impl BinWriter {
    pub(crate) fn new(magic: &[u8; 4]) -> Self {
        let mut out = magic.to_vec();
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        Self { out, sections: 0 }
    }

    pub(crate) fn section(&mut self, id: u32, body: &[u8]) {
        self.out.extend_from_slice(&id.to_le_bytes());
        self.out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        self.out.extend_from_slice(body);
        self.sections += 1;
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out[8..12].copy_from_slice(&self.sections.to_le_bytes());
        self.out
    }
}

//! Whether files that the manifest does not list may be deleted, or may be all that is left of some
//! rows because changes were lost. The doubt is kept on disk until no such file is left: what is
//! mended at one start looks whole at the next.

use std::fs::File;
use std::path::Path;

use super::Manifest;
use crate::disk::sync_folder;
use crate::error::{Result, StoreError};

/// The file that is there while there is doubt.
const DOUBT: &str = "doubt";

impl Manifest {
    pub(super) fn doubt(&mut self, why: String) -> Result<()> {
        self.doubts.push(why);
        mark(&self.folder)
    }

    /// Which changes may be lost, beside those that repairs name.
    pub(crate) fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// Whether what is not listed may be deleted: nothing was lost now, and nothing before of which
    /// files are left. Neither may a torn tail have been a change that counted.
    pub(crate) fn is_whole(&self) -> bool {
        !self.torn && self.doubts.is_empty() && !self.folder.join(DOUBT).exists()
    }

    /// Writes the first change of a new table, an empty one, so that a table with files and no
    /// change is known to have lost its manifest. `unlisted`: there are files already.
    pub(crate) fn begin(&mut self, unlisted: bool) -> Result<()> {
        if self.next > 0 {
            return Ok(());
        }
        if unlisted {
            let folder = self.folder.display();
            self.doubt(format!("the manifest in `{folder}` is damaged: no change is left"))?;
        }
        if let Err(e) = self.append(&[]) {
            // A disk that takes nothing now may do so when there are rows.
            tracing::warn!(folder = %self.folder.display(), error = %e, "cannot begin a manifest");
        }
        Ok(())
    }

    /// No file is left that lost changes may have named.
    pub(crate) fn clear_doubt(&self) -> Result<()> {
        match std::fs::remove_file(self.folder.join(DOUBT)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::io("cannot clear the doubt in", &self.folder)(e))
            }
            _ => Ok(()),
        }
    }
}

/// Notes, before anything is mended, that the listing may lack what it had.
pub(super) fn mark(folder: &Path) -> Result<()> {
    let path = folder.join(DOUBT);
    File::create(&path).map_err(StoreError::io("cannot create", &path))?;
    sync_folder(folder)
}

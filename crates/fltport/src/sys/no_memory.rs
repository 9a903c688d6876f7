//! Where no memory is shared with another process: on systems without it, and where a checker follows every access.

use std::io;

use super::Attachment;
use crate::plane::memory_region::Region;
use crate::sync::AtomicU64;

/// Both pieces at their host, and what the client gets.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) host: Region,
    pub(crate) client: Region,
    pub(crate) files: [Attachment; 2],
}

/// # Errors
/// Always.
pub(crate) fn make_memory(_: usize, _: usize) -> io::Result<Made> {
    Err(io::ErrorKind::Unsupported.into())
}

/// # Errors
/// Always.
pub(crate) fn open_memory(_: &[Attachment; 2], _: usize, _: usize) -> io::Result<(Region, Region)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// # Errors
/// Always.
pub(crate) fn seal_client(_: &Attachment) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// What is on the heap is there.
pub(crate) fn fill_memory(_: &[AtomicU64]) -> io::Result<()> {
    Ok(())
}

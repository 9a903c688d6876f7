//! A message's bytes at its receiver: short ones where they are, long ones in a buffer that is used again.

use std::sync::{Arc, PoisonError, Weak};

use crate::sync::Mutex;

/// Bytes that belong to whoever has them.
pub(crate) enum Payload {
    Short(u8, [u8; SHORT]),
    Long(Long),
}

/// A buffer, and where it goes afterwards.
#[derive(Debug)]
pub(crate) struct Long {
    bytes: Vec<u8>,
    home: Weak<Spare>,
}

/// Buffers that wait for the next long message.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// Bytes that need no buffer, and that are moved about with the message.
const SHORT: usize = 64;

/// Buffers that are kept, and the longest of them: a service has a few messages at a time.
const KEPT: usize = 16;
const KEPT_BYTES: usize = 128 << 10;

impl Payload {
    pub(crate) const fn empty() -> Self {
        Self::Short(0, [0; SHORT])
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Short(length, bytes) => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(long) => &long.bytes,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        match self {
            Self::Short(length, bytes) => bytes.get_mut(..usize::from(*length)).unwrap_or_default(),
            Self::Long(long) => &mut long.bytes,
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        let home = Weak::new();
        Self::Long(Long { bytes, home })
    }
}

impl Spare {
    /// Makes `payload`, which is empty, room for `length` bytes, whatever they are.
    #[inline]
    pub(crate) fn give(self: &Arc<Self>, length: usize, payload: &mut Payload) {
        match payload {
            Payload::Short(short, _) if length <= SHORT => {
                *short = u8::try_from(length).unwrap_or(0)
            }
            _ => *payload = self.long(length),
        }
    }

    fn long(self: &Arc<Self>, length: usize) -> Payload {
        let mut bytes = self.buffers().pop().unwrap_or_default();
        bytes.resize(length, 0);
        let home = Arc::downgrade(self);
        Payload::Long(Long { bytes, home })
    }

    fn buffers(&self) -> crate::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Long {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else {
            return;
        };
        if self.bytes.capacity() <= KEPT_BYTES {
            let mut buffers = home.buffers();
            if buffers.len() < KEPT {
                buffers.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Payload")
            .field(&self.as_slice().len())
            .finish()
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Payload {}

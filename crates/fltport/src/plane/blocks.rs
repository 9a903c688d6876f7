//! Which blocks of a piece of memory are free. The host keeps this for both pieces, in memory of its own: no word that a
//! client can write says where anything goes.

use super::layout;

/// A block that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Bytes from the beginning of the memory.
    pub(crate) offset: usize,
    /// Its bytes.
    pub(crate) size: usize,
    class: usize,
}

/// The blocks of one piece of memory: a few sizes, of each those that were used last first, so that they are warm.
#[derive(Debug)]
pub(crate) struct Blocks {
    classes: [Class; CLASSES.len() + 1],
}

#[derive(Debug)]
struct Class {
    start: usize,
    size: usize,
    count: usize,
    /// Blocks beyond these have never been used.
    used: usize,
    free: Vec<usize>,
}

/// Sizes in bytes, and how many of each. A page for most messages, 64 KiB for what Windows programs send at most.
const CLASSES: [(usize, usize); 2] = [(4 << 10, 64), (64 << 10, 64)];

/// Blocks for the longest message of a port, if that is longer than those.
const LONGEST: usize = 2;

impl Blocks {
    /// All free, from `start` bytes on, for messages of at most `longest` bytes.
    pub(crate) fn new(start: usize, longest: usize) -> Self {
        let mut at = start;
        let mut class = |size: usize, count: usize| {
            let start = at;
            at += size * count;
            Class {
                start,
                size,
                count,
                used: 0,
                free: Vec::new(),
            }
        };
        let [small, large] = CLASSES;
        let (size, count) = longest_class(longest);
        Self {
            classes: [
                class(small.0, small.1),
                class(large.0, large.1),
                class(size, count),
            ],
        }
    }

    /// Bytes that the blocks take up from `start` on.
    pub(crate) fn end(start: usize, longest: usize) -> usize {
        let (size, count) = longest_class(longest);
        let all: usize = CLASSES.iter().map(|(size, count)| size * count).sum();
        start + all + size * count
    }

    /// A block of at least `length` bytes, and whether it is used for the first time; `None` if all such are in use.
    pub(crate) fn take(&mut self, length: usize) -> Option<(Block, bool)> {
        let fitting = self.classes.iter_mut().enumerate();
        for (number, class) in fitting.filter(|(_, class)| length <= class.size) {
            let (index, new) = match class.free.pop() {
                Some(index) => (index, false),
                None if class.used < class.count => {
                    class.used += 1;
                    // Once, so that giving back needs nothing.
                    class.free.reserve(class.count);
                    (class.used - 1, true)
                }
                None => continue,
            };
            let block = Block {
                offset: class.start + index * class.size,
                size: class.size,
                class: number,
            };
            return Some((block, new));
        }
        None
    }

    /// Gives a block back.
    pub(crate) fn give_back(&mut self, block: Block) {
        if let Some(class) = self.classes.get_mut(block.class) {
            class.free.push((block.offset - class.start) / class.size);
        }
    }
}

/// The size and count of the blocks for the longest messages.
fn longest_class(longest: usize) -> (usize, usize) {
    let largest = CLASSES.last().map_or(0, |(size, _)| *size);
    if longest <= largest {
        return (largest, 0);
    }
    (longest.next_multiple_of(4096), LONGEST)
}

/// Bytes of the host's part for a port with this message limit.
pub(crate) fn host_part(max_message: u32) -> usize {
    Blocks::end(
        layout::MESSAGE_BLOCKS,
        usize::try_from(max_message).unwrap_or(0),
    )
}

/// Bytes of the client's part for a port with this message limit.
pub(crate) fn client_part(max_message: u32) -> usize {
    Blocks::end(
        layout::REPLY_BLOCKS,
        usize::try_from(max_message).unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_overlap_and_come_back_warm() {
        let longest = 1 << 20;
        let mut blocks = Blocks::new(4096, longest);
        let mut taken: Vec<Block> = Vec::new();
        while let Some((block, new)) = blocks.take(100) {
            assert!(new && block.size >= 100);
            taken.push(block);
        }
        assert_eq!(taken.len(), 64 + 64 + 2);
        taken.sort_by_key(|block| block.offset);
        for (one, next) in taken.iter().zip(&taken[1..]) {
            assert_eq!(one.offset + one.size, next.offset);
        }
        let last = taken.last().unwrap();
        assert_eq!(last.offset + last.size, Blocks::end(4096, longest));
        let warm = taken[70];
        blocks.give_back(taken[3]);
        blocks.give_back(warm);
        assert_eq!(blocks.take(5000), Some((warm, false)));
        assert_eq!(blocks.take(5000), None);
        assert_eq!(blocks.take(4096), Some((taken[3], false)));
    }

    #[test]
    fn what_is_longer_than_the_port_allows_has_no_block() {
        let mut blocks = Blocks::new(0, 70_000);
        assert!(blocks.take(70_001).is_some(), "the rest of the page");
        assert_eq!(blocks.take(80_000), None);
        assert!(Blocks::new(0, 10).take(65_536).is_some());
        assert_eq!(Blocks::new(0, 10).take(65_537), None);
    }
}

//! The client that misbehaves: a program that plays one story and then stays as it is until it is let go or killed.

use std::path::Path;

use super::common::child::{say, wait_for_the_end};
use super::common::raw::Raw;
use super::common::stage::Stage;
use super::common::until;
use super::{files, flood, memory_frames, memory_stopped, memory_words, packets, quiet, sequence};

/// Plays against the port in a directory; what it gives back stays open.
pub(crate) type Play = fn(&Path) -> Vec<Raw>;

/// What one client does, in words.
pub(crate) type Story = (&'static str, Play);

/// Plays the story that this process was told.
pub(crate) fn play(told: &[String]) {
    let tables = [
        sequence::STORIES,
        flood::STORIES,
        quiet::STORIES,
        packets::STORIES,
        files::STORIES,
        files::OLDER,
        memory_words::STORIES,
        memory_frames::STORIES,
        memory_stopped::STORIES,
    ];
    let mut stories = tables.into_iter().flatten();
    let (_, play) = stories.find(|(name, _)| *name == told[1]).unwrap();
    let kept = play(Path::new(&told[0]));
    say("done");
    wait_for_the_end();
    drop(kept);
}

/// Plays the stories twice: what grows with each of them shows the second time. A third time tells growth from what the
/// allocator happens to keep of a heap with one small piece at its end.
pub(crate) fn twice(stage: &Stage, stories: &[Story]) {
    every(stage, stories);
    let first = stage.look().memory;
    every(stage, stories);
    let second = stage.look().memory;
    if second <= first + GROWTH {
        return;
    }
    println!("once more: {first} bytes after the first time, {second} after the second");
    every(stage, stories);
    until("the third time leaves what the second left", || {
        stage.look().memory <= second + GROWTH
    });
}

/// Bytes that the allocator may keep after any of the stories, the longest of which has the host hold 50 MiB: one small
/// piece at the end of a heap keeps all of it. Whether that grows is looked at after all of them.
const KEPT: usize = 48 << 20;

/// Bytes by which the allocator's leftovers of two equal runs differ.
const GROWTH: usize = 4 << 20;

/// Plays each story in a process of its own. Others are served while it is there; the check follows when it is gone,
/// killed or by itself in turn.
fn every(stage: &Stage, stories: &[Story]) {
    for (number, (name, _)) in stories.iter().enumerate() {
        let start = std::time::Instant::now();
        let mut client = stage.program("client", &[name]);
        client.hear("done");
        stage.assert_serves_meanwhile(name);
        let held = stage.look().memory.saturating_sub(stage.before().memory);
        if number % 2 == 0 {
            client.kill();
        } else {
            client.let_go();
            assert!(client.wait().success());
        }
        // For callbacks that wait there.
        stage.ask("open");
        stage.check_within(name, KEPT);
        stage.ask("shut");
        let left = stage.look().memory.saturating_sub(stage.before().memory);
        let time = start.elapsed();
        println!("{name}: {held} bytes held, {left} left, {time:?}");
    }
}

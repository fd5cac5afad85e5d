//! Work in pieces that threads take one by one: who is done early takes the next, so that none waits long for another.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does all pieces, on all threads of the pool that it is called in. `room`: what a thread needs for all that it does.
pub(crate) fn for_each_piece<R>(pieces: usize, room: impl Fn() -> R + Sync, work: impl Fn(&mut R, usize) + Sync) {
    let next = AtomicUsize::new(0);
    rayon::broadcast(|_| {
        let mut room = room();
        loop {
            let piece = next.fetch_add(1, Ordering::Relaxed);
            if piece >= pieces {
                break;
            }
            work(&mut room, piece);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_whatever_pool_it_is_called_in() {
        for (threads, pieces) in [(1, 5), (3, 0), (3, 1), (3, 1_000)] {
            let done: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                for_each_piece(
                    pieces,
                    || 1,
                    |one, piece| {
                        done[piece].fetch_add(*one, Ordering::Relaxed);
                    },
                );
            });
            assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}

//! By the crate `gemm`: for each text, head and block of queries two products and a softmax.

use gemm::Parallelism;
use rayon::prelude::*;

use super::Work;
use crate::elementwise::masked_softmax;
use crate::product::{Place, Size, multiply};
use crate::shape::Shape;

/// Queries that are done together: few enough that their scores stay in the cache, and that little is computed of what
/// they do not see.
const BLOCK: usize = 128;

/// One head of keys and values, and the queries of one block that look at it.
#[derive(Clone, Copy, Debug)]
struct Task {
    work: Work,
    head: usize,
    first: usize,
}

#[expect(unsafe_code, reason = "tasks go to other threads with pointers that raw code must keep apart")]
// Safety: what is written, the queries, belongs to one task each; what is read is written by none (see `attend`).
unsafe impl Send for Task {}
#[expect(unsafe_code, reason = "as above")]
// Safety: as above.
unsafe impl Sync for Task {}

/// # Safety
/// See [`super::attend`].
#[expect(unsafe_code, reason = "see `super::attend`")]
pub(super) unsafe fn attend(works: &[Work], shape: &Shape) {
    let tasks: Vec<Task> = works
        .iter()
        .flat_map(|work| {
            let heads = (0..shape.key_value_heads).map(|head| (*work, head));
            heads.flat_map(|(work, head)| {
                (0..work.queries.tokens).step_by(BLOCK).map(move |first| Task { work, head, first })
            })
        })
        .collect();
    // Safety: as the caller promises; blocks and heads share no query.
    tasks.par_iter().for_each_init(Vec::new, |scores, task| unsafe { one(task, shape, scores) });
}

/// # Safety
/// See [`attend`].
#[expect(unsafe_code, reason = "see `attend`")]
unsafe fn one(task: &Task, shape: &Shape, scores: &mut Vec<f32>) {
    let Task { work: Work { queries, seen }, head, first } = *task;
    let block = BLOCK.min(queries.tokens - first);
    let tokens: usize = seen.iter().flatten().map(|place| place.tokens).sum();
    // What comes after the block is seen by none of it.
    let unseen = queries.tokens - first - block;
    let keys = tokens - unseen;
    scores.resize(block * keys, 0.0);
    let signed = |number: usize| isize::try_from(number).unwrap_or(isize::MAX);
    let places = || {
        let mut before = 0;
        seen.into_iter().flatten().filter_map(move |place| {
            let from = before;
            let count = place.tokens.min(keys - from);
            before += count;
            (count > 0).then_some((place, from, count))
        })
    };
    for query_head in head * shape.group()..(head + 1) * shape.group() {
        // Safety: within the queries of this block and head.
        let at = unsafe { queries.at.add(first * queries.stride + query_head * shape.head) };
        let query = Place { at, row: signed(queries.stride), column: 1 };
        for (place, from, count) in places() {
            let key = Place {
                // Safety: within the keys of this head.
                at: unsafe { place.keys.add(head * shape.head) }.cast_mut(),
                row: 1,
                column: signed(place.stride),
            };
            let out = Place { at: scores[from..].as_mut_ptr(), row: signed(keys), column: 1 };
            let size = Size { rows: block, columns: count, depth: shape.head };
            // Safety: as the caller promises; the scores are ours.
            unsafe { multiply(size, out, query, key, 0.0, Parallelism::None) };
        }
        for (row, scores) in scores.chunks_exact_mut(keys).enumerate() {
            masked_softmax(scores, keys - (block - 1 - row));
        }
        for (place, from, count) in places() {
            let value = Place {
                // Safety: within the values of this head.
                at: unsafe { place.values.add(head * shape.head) }.cast_mut(),
                row: signed(place.stride),
                column: 1,
            };
            let left = Place { at: scores[from..].as_mut_ptr(), row: signed(keys), column: 1 };
            let size = Size { rows: block, columns: shape.head, depth: count };
            let alpha = if from == 0 { 0.0 } else { 1.0 };
            // Safety: as the caller promises; the queries have been read.
            unsafe { multiply(size, query, left, value, alpha, Parallelism::None) };
        }
    }
}

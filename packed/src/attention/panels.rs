//! By kernels of our own. Transposed: keys are what a kernel has rows of, and queries stand side by side in its registers.
//! So scores come out as the next product reads them, and a softmax goes through all queries of a register at once.
//!
//! A lane is a query of one head; those heads of queries that share a head of keys stand beside each other, so that a short
//! text too fills a panel of 32 lanes. For each text, head of keys and up to [`LANE_PANELS`] panels of lanes, with keys in
//! blocks of at most [`KEYS`]:
//!
//! ```text
//! keys [keys, head]   -> panels of 12 keys         queries [lanes, head] -> panels of 32 lanes
//! values [keys, head] -> panels of 12 of a head's values
//! scores [keys, 32] = keys · queries   for each panel of lanes
//! scores -> weights: exp(score - largest so far); what was summed up before is scaled accordingly
//! sums [head, 32] += values · weights
//! after the last block: sums / sum of weights -> where the queries were
//! ```

use super::{Queries, Seen, Work};
use crate::elementwise::{Running, weigh};
use crate::pieces::for_each_piece;
use crate::product::{Call, Kernel, OUTPUTS, ROWS, interleave, narrow, pair_rows, separate};
use crate::shape::Shape;

/// Panels of lanes of one piece of work: keys and values are put in order once for all of them.
const LANE_PANELS: usize = 8;

/// Keys of a block: with their values they stay in the cache. A multiple of [`ROWS`] and of the values of a word.
const KEYS: usize = 32 * ROWS;

/// The score of a key that a query does not see: its weight is 0.
const UNSEEN: f32 = -1e30;

/// Some lanes of one head of keys and values.
#[derive(Clone, Copy, Debug)]
struct Task {
    work: Work,
    head: usize,
    first_lane: usize,
}

#[expect(unsafe_code, reason = "tasks go to other threads with pointers that raw code must keep apart")]
// Safety: what is written, the queries, belongs to one task each; what is read is written by none (see `attend`).
unsafe impl Send for Task {}
#[expect(unsafe_code, reason = "as above")]
// Safety: as above.
unsafe impl Sync for Task {}

/// What a thread needs.
#[derive(Default)]
struct Room {
    queries: Vec<u32>,
    keys: Vec<u32>,
    values: Vec<u32>,
    narrow: Vec<u32>,
    /// `[keys, 32]`.
    scores: Vec<f32>,
    weights: Vec<u32>,
    /// Of each panel `[head, 32]`.
    sums: Vec<f32>,
    running: Vec<Running>,
}

/// # Safety
/// See [`super::attend`].
#[expect(unsafe_code, reason = "see `super::attend`")]
pub(super) unsafe fn attend(works: &[Work], shape: &Shape, kernel: Kernel) {
    let tasks: Vec<Task> = works
        .iter()
        .flat_map(|work| {
            let heads = (0..shape.key_value_heads).map(|head| (*work, head));
            heads.flat_map(|(work, head)| {
                let lanes = work.queries.tokens * shape.group();
                (0..lanes).step_by(LANE_PANELS * OUTPUTS).map(move |first_lane| Task { work, head, first_lane })
            })
        })
        .collect();
    assert!(kernel.is_available());
    for_each_piece(tasks.len(), Room::default, |room, piece| {
        // Safety: as the caller promises; tasks share no query.
        unsafe { one(&tasks[piece], shape, kernel, room) };
    });
}

impl Task {
    /// Where the query of a lane is.
    fn query(&self, lane: usize, shape: &Shape) -> *mut f32 {
        let Queries { at, stride, .. } = self.work.queries;
        let (token, head) = (lane / shape.group(), self.head * shape.group() + lane % shape.group());
        at.wrapping_add(token * stride + head * shape.head)
    }

    /// Where keys and values of the tokens from `first` on are, `count` of them.
    fn seen(&self, first: usize, count: usize, shape: &Shape) -> impl Iterator<Item = (*const f32, *const f32)> {
        let offset = self.head * shape.head;
        let tokens = self.work.seen.into_iter().flatten().flat_map(move |Seen { keys, values, stride, tokens }| {
            (0..tokens).map(move |token| {
                let at = token * stride + offset;
                (keys.wrapping_add(at), values.wrapping_add(at))
            })
        });
        tokens.skip(first).take(count)
    }

    /// Keys that the query of a lane sees.
    fn visible(&self, lane: usize, shape: &Shape) -> usize {
        let tokens: usize = self.work.seen.iter().flatten().map(|place| place.tokens).sum();
        tokens - self.work.queries.tokens + lane / shape.group() + 1
    }
}

/// # Safety
/// See [`attend`].
#[expect(unsafe_code, reason = "see `attend`")]
unsafe fn one(task: &Task, shape: &Shape, kernel: Kernel, room: &mut Room) {
    let lanes = (task.work.queries.tokens * shape.group() - task.first_lane).min(LANE_PANELS * OUTPUTS);
    let panels = lanes.div_ceil(OUTPUTS);
    let words = kernel.words(shape.head);
    room.running.clear();
    room.running.resize(panels, Running::default());
    room.sums.resize(panels * shape.head * OUTPUTS, 0.0);
    // Safety: as the caller promises.
    unsafe { put_queries(task, lanes, shape, kernel, room) };
    let needed = task.visible(task.first_lane + lanes - 1, shape);
    for first in (0..needed).step_by(KEYS) {
        let keys = KEYS.min(needed - first);
        // Safety: as the caller promises.
        unsafe { put_keys_and_values(task, first, keys, shape, kernel, room) };
        for panel in 0..panels {
            let lane = task.first_lane + panel * OUTPUTS;
            let last = (lane + OUTPUTS).min(task.first_lane + lanes) - 1;
            let keys_seen = keys.min(task.visible(last, shape).saturating_sub(first));
            if keys_seen == 0 {
                continue;
            }
            room.scores.resize(KEYS * OUTPUTS, 0.0);
            let queries = room.queries[panel * words * OUTPUTS..][..words * OUTPUTS].as_ptr().cast();
            for from in (0..keys_seen).step_by(ROWS) {
                let call = Call {
                    steps: words,
                    wide: 0,
                    input: room.keys[from * words..][..ROWS * words].as_ptr(),
                    weights: queries,
                    out: room.scores[from * OUTPUTS..].as_mut_ptr(),
                    stride: OUTPUTS,
                    rows: ROWS.min(keys_seen - from),
                    outputs: OUTPUTS,
                    adds: false,
                };
                // Safety: the panels were made that long; there is room for all keys of a block.
                unsafe { kernel.run(&call) };
            }
            let scores = &mut room.scores[..keys_seen * OUTPUTS];
            let all_see = task.visible(lane, shape).saturating_sub(first).min(keys_seen);
            for (key, scores) in scores.chunks_exact_mut(OUTPUTS).enumerate().skip(all_see) {
                // The later a query, the more it sees.
                let blind = (key + first + 1).saturating_sub(task.visible(lane, shape)) * shape.group();
                let blind = blind.saturating_sub(lane % shape.group()).min(OUTPUTS);
                scores[..blind].fill(UNSEEN);
            }
            let sums = &mut room.sums[panel * shape.head * OUTPUTS..][..shape.head * OUTPUTS];
            weigh(scores, &mut room.running[panel], sums, first > 0);
            let weights = match kernel {
                Kernel::Float32 => scores.as_ptr().cast(),
                Kernel::Bfloat16 => {
                    let pairs = kernel.words(keys_seen);
                    room.weights.resize(kernel.words(KEYS) * OUTPUTS, 0);
                    for (pair, rows) in scores.chunks(2 * OUTPUTS).enumerate() {
                        let (low, high) = rows.split_at(OUTPUTS);
                        pair_rows(low, high, &mut room.weights[pair * OUTPUTS..][..OUTPUTS]);
                    }
                    room.weights[..pairs * OUTPUTS].as_ptr().cast()
                }
            };
            let steps = kernel.words(keys_seen);
            let panel_words = kernel.words(keys) * ROWS;
            for (number, from) in (0..shape.head).step_by(ROWS).enumerate() {
                let call = Call {
                    steps,
                    wide: 0,
                    input: room.values[number * panel_words..][..panel_words].as_ptr(),
                    weights,
                    out: sums[from * OUTPUTS..].as_mut_ptr(),
                    stride: OUTPUTS,
                    rows: ROWS.min(shape.head - from),
                    outputs: OUTPUTS,
                    adds: first > 0,
                };
                // Safety: the panels were made that long; there are sums of all of a head's values.
                unsafe { kernel.run(&call) };
            }
        }
    }
    // Safety: as the caller promises; the queries have been read.
    unsafe { put_answers(task, lanes, shape, room) };
}

/// Queries in panels of lanes. What is missing in the last one is zero.
///
/// # Safety
/// See [`attend`].
#[expect(unsafe_code, reason = "see `attend`")]
unsafe fn put_queries(task: &Task, lanes: usize, shape: &Shape, kernel: Kernel, room: &mut Room) {
    let words = kernel.words(shape.head);
    room.queries.clear();
    room.queries.resize(lanes.div_ceil(OUTPUTS) * words * OUTPUTS, 0);
    let half = OUTPUTS / 2;
    let mut rows = Vec::with_capacity(half);
    for first in (0..lanes).step_by(half) {
        rows.clear();
        rows.extend(
            (first..lanes.min(first + half)).map(|lane| task.query(task.first_lane + lane, shape).cast_const()),
        );
        let to = &mut room.queries[first / OUTPUTS * words * OUTPUTS + first % OUTPUTS..];
        // Safety: queries of that width, as the caller promises; the panel has a place for each word.
        unsafe { put_rows(&rows, shape.head, kernel, &mut room.narrow, to, OUTPUTS) };
    }
}

/// Rows of `width` values side by side, as words, one word of all rows every `stride`.
///
/// # Safety
/// Each row has `width` values.
#[expect(unsafe_code, reason = "rows are pointers")]
unsafe fn put_rows(
    rows: &[*const f32],
    width: usize,
    kernel: Kernel,
    narrowed: &mut Vec<u32>,
    to: &mut [u32],
    stride: usize,
) {
    let words = kernel.words(width);
    assert!(rows.len() <= stride && to.len() >= (words - 1) * stride + rows.len());
    match kernel {
        // Safety: as the caller promises, and as the assertion says.
        Kernel::Float32 => unsafe { interleave(rows.iter().map(|row| row.cast()), words, to.as_mut_ptr(), stride) },
        Kernel::Bfloat16 => {
            narrowed.resize(rows.len() * words, 0);
            for (row, to) in rows.iter().zip(narrowed.chunks_exact_mut(words)) {
                // Safety: as the caller promises.
                narrow(unsafe { std::slice::from_raw_parts(*row, width) }, to);
            }
            let rows = narrowed.chunks_exact(words).map(<[u32]>::as_ptr);
            // Safety: rows of that many words, and as the assertion says.
            unsafe { interleave(rows, words, to.as_mut_ptr(), stride) }
        }
    }
}

/// Keys in panels of keys, values in panels of a head's values. What is missing in the last ones is zero, or of no effect.
///
/// # Safety
/// See [`attend`].
#[expect(unsafe_code, reason = "see `attend`")]
unsafe fn put_keys_and_values(task: &Task, first: usize, count: usize, shape: &Shape, kernel: Kernel, room: &mut Room) {
    let words = kernel.words(shape.head);
    let (keys, values): (Vec<*const f32>, Vec<*const f32>) = task.seen(first, count, shape).unzip();
    room.keys.resize(KEYS * words, 0);
    for (rows, to) in keys.chunks(ROWS).zip(room.keys.chunks_exact_mut(ROWS * words)) {
        // Safety: keys of that width, as the caller promises.
        unsafe { put_rows(rows, shape.head, kernel, &mut room.narrow, to, ROWS) };
    }
    let (steps, parts) = (kernel.words(count), shape.head.div_ceil(ROWS));
    room.values.resize(kernel.words(KEYS) * ROWS * parts, 0);
    for (step, rows) in values.chunks(kernel.values_a_word()).enumerate() {
        for (part, from) in (0..shape.head).step_by(ROWS).enumerate() {
            let width = ROWS.min(shape.head - from);
            let to = &mut room.values[(part * steps + step) * ROWS..][..width];
            // Safety: values of that width, as the caller promises.
            let part_of = |row: &*const f32| unsafe { std::slice::from_raw_parts(row.wrapping_add(from), width) };
            match (kernel, rows) {
                (Kernel::Float32, [row, ..]) => {
                    for (to, value) in to.iter_mut().zip(part_of(row)) {
                        *to = value.to_bits();
                    }
                }
                (Kernel::Bfloat16, [low, high]) => {
                    pair_rows(part_of(low), part_of(high), to);
                }
                (Kernel::Bfloat16, [low, ..]) => {
                    pair_rows(part_of(low), &[], to);
                }
                (_, []) => {}
            }
        }
    }
}

/// Divides the sums of each lane by those of its weights, and puts them where its query was.
///
/// # Safety
/// See [`attend`].
#[expect(unsafe_code, reason = "see `attend`")]
unsafe fn put_answers(task: &Task, lanes: usize, shape: &Shape, room: &mut Room) {
    let half = OUTPUTS / 2;
    for (panel, running) in room.running.iter().enumerate() {
        let sums = &mut room.sums[panel * shape.head * OUTPUTS..][..shape.head * OUTPUTS];
        let factors = running.sum.map(|sum| 1.0 / sum);
        for row in sums.as_chunks_mut::<OUTPUTS>().0 {
            for (sum, factor) in row.iter_mut().zip(factors) {
                *sum *= factor;
            }
        }
        for first in (0..OUTPUTS).step_by(half) {
            let lane = panel * OUTPUTS + first;
            let to = (lane..lanes.min(lane + half)).map(|lane| task.query(task.first_lane + lane, shape).cast());
            // Safety: each of these lanes has a query of that width, which nobody else reads or writes.
            unsafe { separate(sums[first..].as_ptr().cast(), OUTPUTS, shape.head, to) };
        }
    }
}

//! Panels times panels, block by block on all threads.

use super::avx512::Call;
use super::panels::{OUTPUTS, ROWS};
use super::{Into, RowsMut};
use crate::pieces::for_each_piece;

/// Panels of rows, at most, that go past a panel of weights while it is in the cache.
const BLOCK_ROWS: usize = 22;

/// Panels of weights of one piece of work.
const BLOCK_OUTPUTS: usize = 8;

/// Pieces of work for each thread, at least.
const PIECES_A_THREAD: usize = 16;

/// Where sums go, for all threads.
#[derive(Clone, Copy)]
struct Out {
    at: *mut f32,
    stride: usize,
}

#[expect(unsafe_code, reason = "each piece of work writes rows and outputs of its own")]
// Safety: as it says; see `project`.
unsafe impl Sync for Out {}

impl Out {
    /// Where the sums of that row and output go.
    fn place(&self, row: usize, output: usize) -> *mut f32 {
        self.at.wrapping_add(row * self.stride + output)
    }
}

/// What is multiplied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands<'a> {
    /// Words along the inner length.
    pub(super) steps: usize,
    /// Inputs beside them, of float32.
    pub(super) wide: usize,
    /// Panels of rows, and words of each.
    pub(super) rows: (&'a [u32], usize),
    /// Panels of weights, and bytes of each.
    pub(super) weights: (&'a [u8], usize),
}

/// `out = rows · weightsᵀ` by that kernel; `out` was checked to be within its values.
///
/// # Safety
/// The kernel reads, of a panel of rows and a panel of weights, no more words and bytes than `operands` says each has, and
/// writes nothing but the sums of the rows and outputs that its call names.
#[expect(unsafe_code, reason = "kernels take pointers")]
pub(super) unsafe fn project(out: &mut RowsMut<'_>, operands: Operands<'_>, into: Into, kernel: impl Fn(&Call) + Sync) {
    let Operands { steps, wide, rows: (rows, row_panel_words), weights: (weights, panel_bytes) } = operands;
    let (row_panels, panels) = (out.count.div_ceil(ROWS), out.columns.div_ceil(OUTPUTS));
    assert_eq!(rows.len(), row_panels * row_panel_words);
    assert_eq!(weights.len(), panels * panel_bytes);
    let pieces = PIECES_A_THREAD * rayon::current_num_threads();
    let row_blocks = row_panels.div_ceil(BLOCK_ROWS);
    let block_rows = row_panels.div_ceil(row_blocks.max(1));
    let block_outputs = BLOCK_OUTPUTS.min((row_blocks * panels).div_ceil(pieces)).max(1);
    let blocks = panels.div_ceil(block_outputs);
    let to = Out { at: out.values.as_mut_ptr(), stride: out.stride };
    let (count, columns) = (out.count, out.columns);
    for_each_piece(
        row_blocks * blocks,
        || (),
        |(), piece| {
            let (row_block, block) = (piece / blocks, piece % blocks);
            for panel in block * block_outputs..panels.min((block + 1) * block_outputs) {
                for row_panel in row_block * block_rows..row_panels.min((row_block + 1) * block_rows) {
                    kernel(&Call {
                        steps,
                        wide,
                        input: rows[row_panel * row_panel_words..].as_ptr(),
                        weights: weights[panel * panel_bytes..].as_ptr(),
                        out: to.place(row_panel * ROWS, panel * OUTPUTS),
                        stride: to.stride,
                        rows: ROWS.min(count - row_panel * ROWS),
                        outputs: OUTPUTS.min(columns - panel * OUTPUTS),
                        adds: into == Into::Add,
                    });
                }
            }
        },
    );
}

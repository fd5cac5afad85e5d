//! Which rows are computed together. Pure.
//!
//! All tokens of a batch stand in one matrix, a row for each, text behind text without padding; where the texts have
//! one beginning, it comes first. A layer goes through these rows tile by tile, so that what lies between its
//! products takes the memory of a tile and not of a batch.

/// Part of a text within a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Which text.
    pub(crate) text: usize,
    /// Rows of the text before this piece.
    pub(crate) before: usize,
    /// Rows of this piece.
    pub(crate) rows: usize,
}

/// Rows that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// The first, in the batch.
    pub(crate) first: usize,
    /// How many.
    pub(crate) rows: usize,
    /// Whose they are.
    pub(crate) pieces: Vec<Piece>,
}

/// Tiles of at most `most` rows. A text is cut only where it is longer than a tile, and then at multiples of `most`:
/// so the pieces of a text do not depend on what stands beside it.
pub(crate) fn tiles(lengths: &[usize], most: usize) -> Vec<Tile> {
    let mut tiles: Vec<Tile> = Vec::new();
    for (text, length) in lengths.iter().enumerate() {
        for before in (0..*length).step_by(most) {
            let piece = Piece { text, before, rows: most.min(length - before) };
            match tiles.last_mut() {
                Some(tile) if before == 0 && tile.rows + piece.rows <= most => {
                    tile.rows += piece.rows;
                    tile.pieces.push(piece);
                }
                last => {
                    let first = last.map_or(0, |tile| tile.first + tile.rows);
                    tiles.push(Tile { first, rows: piece.rows, pieces: vec![piece] });
                }
            }
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_share_a_tile_and_long_ones_are_cut() {
        let piece = |text, before, rows| Piece { text, before, rows };
        assert_eq!(
            tiles(&[3, 4, 25, 2], 10),
            [
                Tile { first: 0, rows: 7, pieces: vec![piece(0, 0, 3), piece(1, 0, 4)] },
                Tile { first: 7, rows: 10, pieces: vec![piece(2, 0, 10)] },
                Tile { first: 17, rows: 10, pieces: vec![piece(2, 10, 10)] },
                Tile { first: 27, rows: 7, pieces: vec![piece(2, 20, 5), piece(3, 0, 2)] },
            ]
        );
        assert!(tiles(&[], 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_tile_and_no_tile_is_too_large(
            lengths in proptest::collection::vec(1_usize..200, 0..30), most in 1_usize..64,
        ) {
            let tiles = tiles(&lengths, most);
            let mut row = 0;
            let mut of_texts = vec![0; lengths.len()];
            for tile in &tiles {
                prop_assert_eq!(tile.first, row);
                prop_assert!(tile.rows <= most && tile.rows == tile.pieces.iter().map(|piece| piece.rows).sum::<usize>());
                for piece in &tile.pieces {
                    prop_assert_eq!(piece.before, of_texts[piece.text]);
                    prop_assert_eq!(piece.before % most, 0);
                    of_texts[piece.text] += piece.rows;
                }
                row += tile.rows;
            }
            prop_assert_eq!(of_texts, lengths);
        }
    }
}

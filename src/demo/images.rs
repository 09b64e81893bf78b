//! Real images, made on the spot.

use bytes::Bytes;

/// Pixels along each side.
const SIDE: u32 = 16;

/// A PNG that differs for each number: a gradient in a colour of its own.
///
/// # Errors
/// The encoder fails, which it does not for an image of this kind.
pub(super) fn png(number: u64) -> Result<Bytes, png::EncodingError> {
    // Spreads neighbouring numbers over all colours (the 64-bit golden ratio).
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let mut pixels = Vec::with_capacity((SIDE * SIDE * 3) as usize);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let step = u8::try_from((x + y) * 255 / (2 * SIDE)).unwrap_or(u8::MAX);
            pixels.extend([mixed[5] ^ step, mixed[6].wrapping_add(step), mixed[7]]);
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, SIDE, SIDE);
    encoder.set_color(png::ColorType::Rgb);
    // Two numbers may share a colour; the comment keeps their bytes apart.
    encoder.add_text_chunk("Comment".to_owned(), format!("image {number}"))?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(Bytes::from(file))
}

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using System.Text;
using System.Text.RegularExpressions;
using ImageMagick;

namespace ScoreFolder
{
    /// <summary>The pixels of a picture: uint8 RGB, upright, rows from the top.</summary>
    public sealed class Picture
    {
        public Picture(long height, long width, byte[] rgb)
        {
            Height = height;
            Width = width;
            Rgb = rgb;
        }

        public long Height { get; }
        public long Width { get; }
        public byte[] Rgb { get; }
    }

    /// <summary>
    /// From a picture file to the pixels that the detector saw when it learned. Magick.NET decodes PNG and JPEG by
    /// libpng and libjpeg-turbo, as the detector's program does, and leaves colour profiles alone.
    /// </summary>
    public static class Pictures
    {
        private const int MinSide = 16;

        /// <param name="encoded">The bytes of a PNG, JPEG or BMP file.</param>
        /// <param name="valueRange">Black and white of 16-bit grey; null for 0 and 65535.</param>
        /// <exception cref="InvalidDataException">Its pixels would not be those that the detector saw.</exception>
        public static Picture Read(byte[] encoded, (double Black, double White)? valueRange)
        {
            var isPng = Begins(encoded, 0x89, (byte)'P', (byte)'N', (byte)'G') && encoded.Length > 33;
            var isJpeg = Begins(encoded, 0xFF, 0xD8);
            var isBmp = Begins(encoded, (byte)'B', (byte)'M') && encoded.Length > 54;
            if (isBmp && encoded[28] != 8 && encoded[28] != 24)
                throw new InvalidDataException("it is a BMP file of neither 8 nor 24 bits. Convert it.");
            if (!(isPng || isJpeg || isBmp))
                throw new InvalidDataException("it is no PNG, JPEG or BMP file; this program reads no others.");
            var isDeep = isPng && encoded[24] == 16;
            if (isDeep && encoded[25] != 0)
                throw new InvalidDataException("it has 16 bits for each colour. Convert it to 8 bits a colour.");
            using (var image = new MagickImage())
            {
                // ImageMagick only warns of a JPEG file that is cut off, and fills the rest with grey.
                var damage = new List<string>();
                image.Warning += (_, warning) =>
                {
                    if (warning.Exception is MagickCorruptImageWarningException) damage.Add(warning.Message);
                };
                image.Read(encoded);
                if (damage.Count > 0) throw new InvalidDataException($"it is damaged ({damage[0]}).");
                if (Math.Min((long)image.Height, (long)image.Width) < MinSide)
                    throw new InvalidDataException($"it has fewer than {MinSide} pixels on a side. Use a larger one.");
                // A PNG file that says its values are linear would not be exported as stored.
                if (image.ColorSpace != ColorSpace.sRGB && image.ColorSpace != ColorSpace.Gray)
                    throw new InvalidDataException($"its colours are {image.ColorSpace}. Convert it to RGB or grey.");
                if (image.Orientation == OrientationType.Undefined) CheckText(encoded);
                image.AutoOrient();
                using (var pixels = image.GetPixels())
                {
                    var rgb = isDeep
                        ? DeepGrey(pixels.ToShortArray("R"), valueRange ?? (0.0, 65535.0))
                        : OverWhite(pixels.ToByteArray("RGBA"));
                    return new Picture((long)image.Height, (long)image.Width, rgb);
                }
            }
        }

        private static bool Begins(byte[] encoded, params byte[] start) =>
            encoded.Length >= start.Length && encoded.Take(start.Length).SequenceEqual(start);

        /// <summary>RGBA to RGB, over white; what is transparent everywhere keeps its colours.</summary>
        private static byte[] OverWhite(byte[] rgba)
        {
            var isSeen = false;
            for (var i = 3; i < rgba.Length && !isSeen; i += 4) isSeen = rgba[i] > 0;
            var rgb = new byte[rgba.Length / 4 * 3];
            for (int from = 0, to = 0; from < rgba.Length; from += 4)
            {
                var alpha = isSeen ? rgba[from + 3] : 255;
                var white = 255 * (255 - alpha);
                for (var c = 0; c < 3; c++) rgb[to++] = (byte)((rgba[from + c] * alpha + white + 127) / 255);
            }
            return rgb;
        }

        /// <summary>
        /// 16-bit grey to RGB, in float and with halves rounded to even, as the detector's program does it.
        /// </summary>
        private static byte[] DeepGrey(ushort[] values, (double Black, double White) range)
        {
            var (black, scale) = ((float)range.Black, (float)(255.0 / (range.White - range.Black)));
            var rgb = new byte[values.Length * 3];
            for (var i = 0; i < values.Length; i++)
            {
                var level = Math.Min(Math.Max((values[i] - black) * scale, 0F), 255F);
                var grey = (byte)MathF.Round(level, MidpointRounding.ToEven);
                rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = grey;
            }
            return rgb;
        }

        /// <summary>
        /// Where ImageMagick found nothing of how a picture lies, XMP may say it, or EXIF in a PNG file, which not
        /// every version reads.
        /// </summary>
        private static void CheckText(byte[] encoded)
        {
            var text = Encoding.GetEncoding("iso-8859-1").GetString(encoded);
            if (Regex.IsMatch(text, "tiff:Orientation(=\"|>)[^1]|eXIf(II|MM)"))
            {
                throw new InvalidDataException(
                    "how it lies stands where this program does not read it, in XMP or a PNG's EXIF. Save it upright.");
            }
        }
    }
}

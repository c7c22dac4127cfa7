// Score every picture of a folder with an exported model.
//
//     dotnet run -- MODEL.onnx FOLDER [--maps OUT]
//
// Prints one line of CSV for each picture. Exit status: 0 where all were scored, 1 where some could not be, 2 where
// none was, since the model or the call is wrong. The map of each picture goes to OUT as float32 .npy.

using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Microsoft.ML.OnnxRuntime;

namespace ScoreFolder
{
    public static class Program
    {
        // Of the score; the same file on other runtimes differs by about 1e-5.
        private const double ProbeTolerance = 1e-3;

        private static readonly HashSet<string> Suffixes = new HashSet<string>(
            ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .pnm .ppm .tif .tiff .webp".Split(' '),
            StringComparer.OrdinalIgnoreCase);

        public static int Main(string[] arguments)
        {
            Model model = null;
            string file, folder, maps;
            List<string> paths;
            try
            {
                (file, folder, maps) = Given(arguments);
                paths = Directory.EnumerateFileSystemEntries(folder)
                    .OrderBy(Path.GetFileName, StringComparer.Ordinal)
                    .ToList();
                foreach (var path in paths.Where(path => !IsPicture(path)))
                    Console.Error.WriteLine($"{Path.GetFileName(path)} is passed over: by its ending it is no picture.");
                paths = paths.Where(IsPicture).ToList();
                if (paths.Count == 0) throw new InvalidDataException($"there are no pictures in {folder}.");
                model = Model.Checked(file, ProbeTolerance);
                if (maps != null) Directory.CreateDirectory(maps);
            }
            catch (Exception error) // of the disk, of the call, or of ONNX Runtime
            {
                model?.Dispose();
                Console.Error.WriteLine($"Nothing was scored: {error.Message}");
                return 2;
            }
            using (model)
            {
                return Score(model, paths, maps);
            }
        }

        private static bool IsPicture(string path) => Suffixes.Contains(Path.GetExtension(path));

        private static (string File, string Folder, string Maps) Given(string[] arguments)
        {
            var others = arguments.ToList();
            string maps = null;
            var at = others.IndexOf("--maps");
            if (at >= 0 && at + 1 < others.Count)
            {
                maps = others[at + 1];
                others.RemoveRange(at, 2);
            }
            if (others.Count != 2) throw new ArgumentException("usage: score_folder MODEL.onnx FOLDER [--maps OUT]");
            return (others[0], others[1], maps);
        }

        private static int Score(Model model, List<string> paths, string maps)
        {
            var status = 0;
            Console.WriteLine("picture,score,threshold,p_value,verdict");
            foreach (var path in paths)
            {
                var name = Path.GetFileName(path);
                Picture picture;
                try
                {
                    picture = Pictures.Read(File.ReadAllBytes(path), model.ValueRange);
                }
                catch (Exception error) // of a damaged file a decoder may say anything
                {
                    Console.Error.WriteLine($"{name} was not scored: {error.Message}");
                    status = 1;
                    continue;
                }
                var (score, map) = model.Run(picture);
                var pValue = (1.0 + model.HeldOut.Count(other => other >= score)) / (model.HeldOut.Length + 1.0);
                var verdict = score > model.Threshold ? "anomalous" : "good";
                Console.WriteLine(FormattableString.Invariant(
                    $"{Cell(name)},{score:G9},{model.ThresholdText},{pValue:G6},{verdict}"));
                if (maps != null) WriteNpy(Path.Combine(maps, name + ".npy"), picture.Height, picture.Width, map);
            }
            return status;
        }

        private static string Cell(string text) =>
            text.IndexOfAny(new[] { '"', ',', '\n', '\r' }) < 0 ? text : "\"" + text.Replace("\"", "\"\"") + "\"";

        /// <summary>Writes a map as a .npy file, on processors with the lower byte first.</summary>
        private static void WriteNpy(string path, long height, long width, float[] map)
        {
            var header = $"{{'descr': '<f4', 'fortran_order': False, 'shape': ({height}, {width}), }}";
            header = header.PadRight((header.Length + 11 + 63) / 64 * 64 - 11) + "\n"; // 10 bytes stand before it
            using (var file = File.Create(path))
            {
                file.Write(new byte[] { 0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y', 1, 0 });
                file.Write(new[] { (byte)(header.Length % 256), (byte)(header.Length / 256) });
                file.Write(Encoding.ASCII.GetBytes(header));
                file.Write(MemoryMarshal.AsBytes(map.AsSpan()));
            }
        }
    }

    /// <summary>An exported model, and what its file says.</summary>
    public sealed class Model : IDisposable
    {
        private readonly InferenceSession _session;

        private Model(string path)
        {
            _session = new InferenceSession(path);
        }

        public double Threshold { get; private set; }
        public string ThresholdText { get; private set; }
        public double[] HeldOut { get; private set; }
        public (double Black, double White)? ValueRange { get; private set; }

        /// <summary>A model that has scored its own picture as it must.</summary>
        /// <exception cref="InvalidDataException">It has not, or the file is no exported model.</exception>
        public static Model Checked(string path, double tolerance)
        {
            var model = new Model(path);
            try
            {
                model.ReadMetadata(tolerance);
                return model;
            }
            catch
            {
                model.Dispose();
                throw;
            }
        }

        /// <summary>Raw score and map, rows from the top; NaN where a crop left a border unscored.</summary>
        public (float Score, float[] Map) Run(Picture picture)
        {
            var shape = new[] { picture.Height, picture.Width, 3L };
            using (var input = OrtValue.CreateTensorValueFromMemory(picture.Rgb, shape))
            using (var options = new RunOptions())
            using (var found = _session.Run(options, new[] { "image" }, new[] { input }, new[] { "score", "map" }))
            {
                return (found[0].GetTensorDataAsSpan<float>()[0], found[1].GetTensorDataAsSpan<float>().ToArray());
            }
        }

        public void Dispose() => _session.Dispose();

        private void ReadMetadata(double tolerance)
        {
            var metadata = _session.ModelMetadata.CustomMetadataMap;
            if (!metadata.TryGetValue("admodels_format", out var format) || format != "1")
            {
                throw new InvalidDataException(
                    "its metadata have no admodels_format=1: it is no exported model, or a newer one.");
            }
            ThresholdText = metadata["threshold"];
            Threshold = Number(ThresholdText);
            using (var config = JsonDocument.Parse(metadata["model"]))
            {
                HeldOut = config.RootElement.GetProperty("calibration").GetProperty("scores")
                    .EnumerateArray().Select(value => value.GetDouble()).ToArray();
            }
            if (metadata["value_range"] != "")
            {
                var range = metadata["value_range"].Split(':');
                ValueRange = (Number(range[0]), Number(range[1]));
            }

            var score = Run(Pictures.Read(Convert.FromBase64String(metadata["probe_png"]), null)).Score;
            var expected = Number(metadata["probe_score"]);
            // Written so that NaN fails.
            if (!(Math.Abs(score - expected) <= tolerance * Math.Max(Math.Abs(expected), Math.Abs(Threshold))))
                throw new InvalidDataException($"its own picture scores {score:G9} here and must score {expected:G9}.");
        }

        private static double Number(string text) =>
            double.Parse(text, NumberStyles.Float, CultureInfo.InvariantCulture);
    }
}

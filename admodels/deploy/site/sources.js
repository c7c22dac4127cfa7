// Where pictures come from: chosen, dropped or pasted files, and folders with all that lies in them.

const SUFFIXES = new Set(
  ("apng avif avifs bmp dib gif j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx mpo pbm pfm pgm png pnm ppm tif tiff webp " +
    "heic heif").split(" "),
);
const LITTER = /^(\..*|thumbs\.db|ehthumbs\.db|desktop\.ini|__macosx|@eadir|#recycle|\$recycle\.bin)$/i;

/** What is given out: pictures, {name, file}, in their names' order; and names of files that are none. */
const sorted = (pictures, passedOver) => ({
  pictures: pictures.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })),
  passedOver,
});

/** Files that were picked one by one: all of them, so that each gets a verdict or a reason. */
export function fromFiles(files) {
  return sorted([...files].map((file) => ({ name: file.name, file })), []);
}

/** Files of a folder: by their names; hidden ones and what systems leave behind are nobody's pictures. */
export function fromFolder(files) {
  const pictures = [];
  const passedOver = [];
  for (const file of files) {
    const path = (file.path ?? file.webkitRelativePath) || file.name;
    const parts = path.split("/");
    if (parts.some((part) => LITTER.test(part))) continue;
    const name = parts.length > 1 ? parts.slice(1).join("/") : path; // without the folder that was chosen
    const [, suffix] = /\.([^./]*)$/.exec(name) ?? [];
    if (SUFFIXES.has(suffix?.toLowerCase())) pictures.push({ name, file: file.file ?? file });
    else passedOver.push(name);
  }
  return sorted(pictures, passedOver);
}

/** What was dropped: files as if picked, folders as if chosen. */
export async function fromDrop({ entries, files: dropped }) {
  if (!entries.length) return fromFiles(dropped);
  const single = [];
  const inFolders = [];
  for (const entry of entries) {
    if (entry.isDirectory) await walk(entry, entry.name, inFolders);
    else single.push(await fileOf(entry));
  }
  const [files, folder] = [fromFiles(single), fromFolder(inFolders)];
  return { pictures: [...files.pictures, ...folder.pictures], passedOver: folder.passedOver };
}

const fileOf = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));

async function walk(folder, path, found) {
  const reader = folder.createReader();
  for (;;) { // a hundred at a time
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return;
    for (const entry of entries) {
      if (entry.isDirectory) await walk(entry, `${path}/${entry.name}`, found);
      else found.push({ path: `${path}/${entry.name}`, name: entry.name, file: await fileOf(entry) });
    }
  }
}

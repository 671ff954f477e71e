// Compile Python sources with the Python that will run them: node tools/web_compile.mjs PYODIDE_FOLDER OUT IN...
// Each zip archive IN gives OUT/NAME, a zip archive of the .pyc files of its .py files. Driven by tools/web_compile.py.
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, out, ...archives] = process.argv.slice(2);
const { loadPyodide } = await import(pathToFileURL(path.join(folder, "pyodide.mjs")).href);
const python = await loadPyodide({ indexURL: folder });
// A .pyc without its .py beside it is never compared with it, so its time is 0. Stored, not deflated: it is unpacked at once.
python.runPython(`
import zipfile
from importlib._bootstrap_external import _code_to_timestamp_pyc

def compiled(source, out):
    with zipfile.ZipFile(source) as sources, zipfile.ZipFile(out, "w") as modules:
        for name in sorted(sources.namelist()):
            if name.endswith(".py"):
                code = compile(sources.read(name), name, "exec", dont_inherit=True)
                modules.writestr(name + "c", _code_to_timestamp_pyc(code))
`);
for (const archive of archives) {
    python.FS.writeFile("/in.zip", fs.readFileSync(archive));
    python.runPython(`compiled("/in.zip", "/out.zip")`);
    fs.writeFileSync(path.join(out, path.basename(archive)), python.FS.readFile("/out.zip"));
}

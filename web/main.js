// The page's first script.

import { start } from "./ui/app.js";
import { isolate } from "./ui/offline.js";

if (!(await isolate())) start(document.getElementById("app"));

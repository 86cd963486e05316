/* The last script of the page: everything is there, begin. */
"use strict";

Replay.start();

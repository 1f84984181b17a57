import { render } from "preact";
import { Page } from "./parts/page";
import { refresh } from "./state/books";
import "./style/palette.css";
import "./style/base.css";
import "./style/evidence.css";
import "./style/rooms.css";

render(<Page />, document.getElementById("page")!);
void refresh();

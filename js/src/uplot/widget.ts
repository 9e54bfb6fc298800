// The plotting library, a bundle of its own: only streams that are lines send it to the page.

export { default } from "uplot";

"""The field of the page in which pictures stand anywhere in the text: its HTML, style and script.

The page's toolkit has a field for text with files beside it, but MM1 reads text and pictures in any
order, so the order is what has to be written. The field is a `contenteditable` element; a picture
in it is one character wide to the cursor. What is pasted comes in as plain text.
"""

EDITOR_HTML = """
<div class="prompt" contenteditable="true" role="textbox" aria-multiline="true" spellcheck="false"
     aria-label="Prompt: text and pictures in any order"
     data-hint="Write here, and drop, paste or add pictures anywhere in the text."></div>
<div class="bar">
  <button type="button" class="add">Add picture</button>
  <button type="button" class="clear">Clear</button>
  <span class="space"></span>
  <button type="button" class="stop">Stop</button>
  <button type="button" class="ask">Ask</button>
  <input type="file" accept="image/*" multiple hidden>
</div>
"""

EDITOR_CSS = """
.prompt {
  min-height: 9rem; max-height: 24rem; overflow-y: auto; padding: .8rem 1rem; font-size: 1.05rem;
  line-height: 1.7; white-space: pre-wrap; overflow-wrap: anywhere; outline: none;
  border: 1px solid var(--border-color-primary); border-radius: .6rem;
  background: var(--input-background-fill); color: var(--body-text-color);
}
.prompt:focus { border-color: var(--color-accent); }
.prompt.over { border-style: dashed; border-color: var(--color-accent); }
.prompt:empty::before { content: attr(data-hint); color: var(--body-text-color-subdued); }
.prompt img {
  display: inline-block; height: 4.5rem; max-width: 60%; width: auto; object-fit: contain;
  vertical-align: middle; margin: 0 .2rem; border-radius: .35rem;
  border: 1px solid var(--border-color-primary);
}
.bar { display: flex; gap: .5rem; margin-top: .6rem; align-items: center; }
.space { flex: 1; }
button {
  padding: .45rem .9rem; border-radius: .5rem; cursor: pointer; font-size: .9rem;
  font-weight: 500; white-space: nowrap; border: 1px solid var(--border-color-primary);
  color: var(--button-secondary-text-color);
  background: var(--button-secondary-background-fill);
}
button.ask {
  background: var(--button-primary-background-fill); color: var(--button-primary-text-color);
  border-color: transparent; min-width: 4.5rem;
}
button:hover { filter: brightness(.96); }
"""

EDITOR_SCRIPT = """
const prompt = element.querySelector('.prompt');
const chooser = element.querySelector('input[type=file]');
let pause = null, caret = null;

function pieces() {
  const found = [];
  const text = (more) => {
    if (!more) return;
    const last = found[found.length - 1];
    if (last && last.type === 'text') last.text += more;
    else found.push({type: 'text', text: more});
  };
  const walk = (node) => {
    for (const child of node.childNodes) {
      if (child.nodeType === Node.TEXT_NODE) text(child.textContent);
      else if (child.tagName === 'IMG')
        found.push({type: 'image', name: child.alt, data: child.src});
      else if (child.tagName === 'BR') { if (child.nextSibling) text('\\n'); }
      else { if (found.length && child.tagName === 'DIV') text('\\n'); walk(child); }
    }
  };
  walk(prompt);
  return found;
}

function changed(delay) {
  clearTimeout(pause);
  pause = setTimeout(() => trigger('change', {pieces: pieces()}), delay);
}

function put(node) {
  const inside = caret && prompt.contains(caret.commonAncestorContainer);
  const range = inside ? caret : document.createRange();
  if (!inside) { range.selectNodeContents(prompt); range.collapse(false); }
  range.deleteContents();
  range.insertNode(node);
  range.setStartAfter(node); range.collapse(true);
  const selection = getSelection();
  selection.removeAllRanges(); selection.addRange(range);
  caret = range.cloneRange();
}

function read(file) {
  return new Promise((done) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.readAsDataURL(file);
  });
}

async function add(files) {
  for (const file of files) {
    const image = document.createElement('img');
    image.alt = file.name || 'pasted';
    image.src = await read(file);
    put(image);
  }
  if (files.length) changed(0);
}

document.addEventListener('selectionchange', () => {
  const selection = getSelection();
  if (selection.rangeCount && prompt.contains(selection.anchorNode))
    caret = selection.getRangeAt(0).cloneRange();
});
prompt.addEventListener('input', () => {
  if (prompt.innerHTML === '<br>') prompt.replaceChildren();
  changed(600);
});
prompt.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault(); ask();
  }
});
prompt.addEventListener('paste', (event) => {
  event.preventDefault();
  const files = [...event.clipboardData.files];
  if (files.length) { add(files); return; }
  put(document.createTextNode(event.clipboardData.getData('text/plain')));
  changed(600);
});
prompt.addEventListener('dragover', (event) => {
  event.preventDefault(); prompt.classList.add('over');
});
prompt.addEventListener('dragleave', () => prompt.classList.remove('over'));
prompt.addEventListener('drop', (event) => {
  const files = [...event.dataTransfer.files];
  prompt.classList.remove('over');
  if (!files.length) return;  // a picture moved inside of the text
  event.preventDefault();
  event.stopPropagation();
  const range = document.caretRangeFromPoint
    ? document.caretRangeFromPoint(event.clientX, event.clientY) : null;
  if (range && prompt.contains(range.startContainer)) caret = range;
  add(files);
});
function ask() { clearTimeout(pause); trigger('submit', {pieces: pieces()}); }
element.querySelector('.ask').addEventListener('click', ask);
element.querySelector('.stop').addEventListener('click', () => trigger('stop', {}));
element.querySelector('.add').addEventListener('click', () => chooser.click());
element.querySelector('.clear').addEventListener('click', () => {
  prompt.replaceChildren(); caret = null; prompt.focus();
  trigger('clear', {});
});
chooser.addEventListener('change', () => { add([...chooser.files]); chooser.value = ''; });
"""

__all__ = ["EDITOR_CSS", "EDITOR_HTML", "EDITOR_SCRIPT"]

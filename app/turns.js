// Added by app/gate/turns.py to Streamlit's script that draws charts, which asks it before it draws one.
//
// A chart takes the browser 50 to 150 ms, and a page has up to a dozen, of which a window shows two. So those in
// the window are drawn first, and the others one by one when the browser has nothing else to do, or when they come
// into the window. Until then they have their height, so that nothing jumps, and show nothing: what was drawn of
// them before could be other numbers than their heading says.

const seighWaiting = new Map(); // what is to be drawn last in each element
let seighDue = false;
let seighIdle = false;

/** Draw into an element when it is its turn; what was to be drawn in it before, and has not begun, never is. */
function seighInTurn(element, spec, draw) {
    const isDrawn = element.querySelector('svg, canvas') !== null;
    if (!isDrawn && typeof spec?.height === 'number') element.style.minHeight = `${spec.height}px`;
    element.setAttribute('aria-busy', 'true');
    return new Promise((resolve, reject) => {
        seighWaiting.set(element, {draw, resolve, reject});
        if (seighFar(element) > 0) element.style.visibility = 'hidden';
        seighSoon();
    });
}

function seighSoon() {
    if (seighDue || seighWaiting.size === 0) return;
    seighDue = true;
    setTimeout(() => { seighDue = false; seighNext(false); });
}

/** Draw what is nearest, if it is in the window or there is time; then look again. */
function seighNext(hasTime) {
    for (const element of seighWaiting.keys())
        if (!element.isConnected) seighWaiting.delete(element);
    const [nearest] = [...seighWaiting.keys()].map(each => [seighFar(each), each]).sort((one, other) => one[0] - other[0]);
    if (!nearest) return;
    const [far, element] = nearest;
    if (far === 0 || hasTime) {
        seighDraw(element);
        seighSoon();
    } else if (!seighIdle) {
        seighIdle = true;
        const then = () => { seighIdle = false; seighNext(true); };
        if (window.requestIdleCallback) requestIdleCallback(then, {timeout: 1000});
        else setTimeout(then, 50);
    }
}

async function seighDraw(element) {
    const {draw, resolve, reject} = seighWaiting.get(element);
    seighWaiting.delete(element);
    try {
        resolve(await draw());
    } catch (error) {
        reject(error);
    } finally {
        if (!seighWaiting.has(element)) {
            element.style.visibility = element.style.minHeight = '';
            element.removeAttribute('aria-busy');
        }
    }
}

/** How many px an element is from the window; one without a size is nowhere. */
function seighFar(element) {
    const {top, bottom, width} = element.getBoundingClientRect();
    return width === 0 ? Infinity : Math.max(0, top - window.innerHeight, -bottom);
}

window.addEventListener('scroll', seighSoon, {capture: true, passive: true});
window.addEventListener('resize', seighSoon);
window.addEventListener('beforeprint', () => [...seighWaiting.keys()].forEach(seighDraw));

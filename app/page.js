// Loaded once into the dashboard's page by app/main.py.
(() => {
    if (window.seighPage) return;
    window.seighPage = true;

    // A page writes what it shows into its bare address. That is no step of its own in the history: else the first
    // press of Back would only take it away, and the page would write it again.
    const push = history.pushState.bind(history);
    history.pushState = (state, title, url) => {
        const there = new URL(url ?? location.href, location.href);
        const first = there.pathname === location.pathname && !location.search && there.search;
        return first ? history.replaceState(state, title, url) : push(state, title, url);
    };

    // Icons are drawn by a font whose letters spell their names, which nobody is to be read.
    const hush = () => {
        for (const icon of document.querySelectorAll('[data-testid=stIconMaterial]:not([aria-hidden]), span[translate=no][role=img]:not([aria-hidden])'))
            icon.setAttribute('aria-hidden', 'true');
    };
    // The list of pages has a box around each section, in which its items belong to no list.
    const list = () => {
        for (const item of document.querySelectorAll('[data-testid=stSidebarNavItems] > * > li')) {
            const box = item.parentElement;
            if (box.getAttribute('role') === 'list') continue;
            box.setAttribute('role', 'list');
            box.parentElement.setAttribute('role', 'presentation');
        }
    };

    // A chart has its text beside it, which stays while its numbers change, and is described by its heading, which
    // says the size; of its parts those without a name say nothing, and are not to be read.
    const charts = () => {
        for (const chart of document.querySelectorAll('[data-testid=stMain] [role=graphics-document]')) {
            const heading = chart.closest('[class*=st-key-figure_]')?.querySelector('h2 [id], h3 [id]');
            if (heading && chart.getAttribute('aria-describedby') !== heading.id)
                chart.setAttribute('aria-describedby', heading.id);
        }
        for (const part of document.querySelectorAll('[data-testid=stMain] svg [role=graphics-symbol]:not([aria-label]):not([aria-hidden])'))
            part.setAttribute('aria-hidden', 'true');
    };
    // A picture is called as the words below it.
    const pictures = () => {
        for (const picture of document.querySelectorAll('[data-testid=stImage] img:not([alt])'))
            picture.alt = picture.closest('[data-testid=stImage]').innerText.trim();
    };

    // Once for all that changes before the next frame: a chart is hundreds of changes.
    let due = false;
    const mend = () => { due = false; hush(); list(); charts(); pictures(); };
    const soon = () => {
        if (due) return;
        due = true;
        requestAnimationFrame(mend);
    };
    new MutationObserver(soon).observe(document.body, {childList: true, subtree: true});
    mend();
})();
